"""Reports: a data set analysed part by part, what changed between two, and the pages that show it.

Read `loss_report` first: `LossReport`, which writes the files. `parts` says how the command analyses files in parts
that survive a killed run, and how shards become one. The page: `page` (its pieces, and ``page.html``), `pictures`,
`thumbnails` of the samples, `loss_page`. Two reports: `saved_report` reads one back, `comparison` says what changed,
`change_page` shows it.

The contract: the same data give the same bytes, however they are cut into blocks, parts and shards, and however many
threads work. A page needs nothing beside itself. matplotlib is imported in `pictures` alone,
jinja2 in `page` alone, Pillow in `thumbnails` alone.
"""
