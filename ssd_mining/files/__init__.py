"""Files: arrays that are read by rows, and output that appears whole or not at all.

Read `blocks` first: `read_blocks` walks any array by its rows, one block ahead. `sources` opens an array in a file
of any format, `names` reads what samples and classes are called, and `annotations` reads boxes. `output` writes.

The contract: nothing is unpickled. A file that is missing, damaged, or of another content than expected raises
`DataError`, whose message begins with the name that the user typed. An output file or directory gets its name only
once it is complete and on the disk, and a name in use is refused.
"""
