"""A process that holds a store's lock until it is killed: `lock_holder.py STORE`."""

from __future__ import annotations

import sys
import time

from arcpipe.place import as_place
from arcpipe.store import store_lock

if __name__ == "__main__":
    with store_lock(as_place(sys.argv[1])):
        print("held", flush=True)
        time.sleep(60)
