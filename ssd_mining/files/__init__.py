"""Files: arrays that are read by rows, and output that appears whole or not at all.

Read `blocks` first: `read_blocks` walks any array by its rows, one block ahead. `sources` opens an array in a file
of any format, says whether it is whole, and whether it is still the same; `stores` does so for zarr and h5py, and
`chunks` reads each chunk once; `conversions` says how to go on with a file of another format. `names` reads the names
of samples and classes, and the tables in which they stand. `annotations` reads boxes. `text` encodes all that is
printed and written. `output` writes arrays, tables and directories.

The contract: nothing is unpickled. A file that is missing, damaged, or of another content than expected raises
`DataError`, whose message begins with the name that the user typed. A chunk that was never written gives a
`HazardWarning`. Any text and any integer of 64 bits is read back as it was written; a terminal, a page and a picture
get `shown` texts. An output file or directory gets its name only once it is complete and on the disk. A name in
use is refused, or its files are replaced at once, where the user says so.
"""
