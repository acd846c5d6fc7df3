"""Files of other formats: how their arrays are saved again as .npy."""

from pathlib import Path

_READERS = {
    ".pt": 'torch.load("{name}", map_location="cpu").numpy(force=True)',
    ".csv": 'numpy.loadtxt("{name}", delimiter=",", ndmin=2)',
    ".tsv": 'numpy.loadtxt("{name}", ndmin=2)',
    ".parquet": 'pandas.read_parquet("{name}").to_numpy()',
    ".pkl": 'numpy.load("{name}", allow_pickle=True)',
}
_ALIKE = {".pth": ".pt", ".txt": ".tsv", ".pickle": ".pkl"}


def conversion_of(name: str) -> str:
    """Return how to go on with a file, as a hint at the end of an error; nothing for a suffix that is not known.

    Examples
    --------
    >>> print(conversion_of("losses.csv"))
    ; numpy.save("losses.npy", numpy.loadtxt("losses.csv", delimiter=",", ndmin=2)) makes one
    """
    path = Path(name)
    if path.suffix == ".json":
        return "; boxes in JSON go to --boxes, or to ssd-mining match"
    suffix = _ALIKE.get(path.suffix, path.suffix)
    if suffix not in _READERS:
        return ""
    return f'; numpy.save("{path.with_suffix(".npy")}", {_READERS[suffix].format(name=name)}) makes one'
