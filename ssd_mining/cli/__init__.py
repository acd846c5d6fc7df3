"""The command line: words come in, one text goes to stdout or one line to stderr, and an exit code goes out.

Read `entry` first: the list of commands, and the exit code of each kind of error. `options` holds every word of
every command. There is one module per command, and its ``run(args)`` returns the text that is printed: `match`,
`mine`, `report` and `merge` (its shards), `compare`, `recipes`, `demo` (with `synthetic`), `doctor`, `warmup`.
`labels` makes labels of boxes; `progress` draws the bar; `program` writes a command as it can be typed; `versions`
says what results depend on.

The contract: ``--help`` loads no NumPy. An option that cannot be meant raises `OptionError` (exit code 2), a file
that is not what it should be `DataError` (3); an `InputError` of the library is told in the words of the user.
Whatever can be checked first is checked before anything is computed, and output appears whole or not at all.
"""

from ssd_mining.cli.entry import main

__all__ = ["main"]
