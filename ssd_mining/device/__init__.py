"""Device arrays, which stay on their GPU: the public functions for arrays that lie there already.

The public functions call `mining.mine`, `losses.mine`, `losses.losses`, and for the whole loss `multibox.check`,
`multibox.mine` and `multibox.divided`. Read in this order:

- `arrays`: whose memory it is, on which stream it is made, and more arrays of its kind.
- `mining`: checked, packed where the layout wants it, mined; what is resident can be read.
- `losses`, `multibox`: losses from logits, and the whole loss, of which mining is a part.

The contract: the host's own checks see *stand-ins*, arrays of the same dtype and shape without memory, so there is
one set of messages. The kernels count what needs a pass over values; the host reads the counts only where an error
could come of them, and then says by its own pass which one. Nothing else waits for the device. An array of the
caller's library is asked for its memory and, where it is a result, for its rows: not every library can do more.
"""
