"""The filters as functions of their options alone: stages of a `pipeline`.

``curried.listed(2)`` is a function of samples, and can be pickled.
"""

from __future__ import annotations

from shardbuild.streams import filters
from shardbuild.streams.stages import curried

associate = curried(filters.associate)
batched = curried(filters.batched)
dbcache = curried(filters.dbcache)
decode = curried(filters.decode)
extract_keys = curried(filters.extract_keys)
info = curried(filters.info)
listed = curried(filters.listed)
log_keys = curried(filters.log_keys)
map = curried(filters.map)  # noqa: A001  # as in webdataset
map_dict = curried(filters.map_dict)
map_tuple = curried(filters.map_tuple)
pipe = curried(filters.pipe)
rename = curried(filters.rename)
rename_keys = curried(filters.rename_keys)
repeat = curried(filters.repeat)
resampled = curried(filters.resampled)
rsample = curried(filters.rsample)
select = curried(filters.select)
shuffle = curried(filters.shuffle)
slice = curried(filters.slice)  # noqa: A001
to_tuple = curried(filters.to_tuple)
unbatched = curried(filters.unbatched)
unlisted = curried(filters.unlisted)
with_epoch = curried(filters.with_epoch)
with_length = curried(filters.with_length)
