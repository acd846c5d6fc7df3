"""What a frozen program needs beside the code that the statements of ssd_mining import."""

from importlib.util import find_spec

from PyInstaller.utils.hooks import collect_data_files, copy_metadata

datas = collect_data_files("ssd_mining.report", includes=["*.html"])
for name in ("ssd_mining", "numpy", "numba", "llvmlite"):
    datas += copy_metadata(name)
# Imported by name: what reads files of other formats, and what matplotlib saves pictures with.
hiddenimports = [name for name in ("h5py", "zarr") if find_spec(name)]
if find_spec("matplotlib"):
    hiddenimports.append("matplotlib.backends.backend_svg")
