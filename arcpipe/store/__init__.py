"""The store: one Zarr v3 folder that holds the clouds of an image dataset. NumPy and Zarr only.

from arcpipe.store import open_store
store = open_store("store/digits.zarr")
for part in store.parts("train"):
    clouds = store.read_block("train", part.id, 0, 32)
"""

from arcpipe.store.create import check_place, create_or_open, existing_decoder, open_writer, with_mended_images
from arcpipe.store.decoder_file import decoder_kind, load_decoder_file, save_decoder_file
from arcpipe.store.quantise import Rounding, position_dtype
from arcpipe.store.reader import Store, open_store
from arcpipe.store.repair import RepairReport, advice, repair
from arcpipe.store.schema import PartRecord, PlannedPart, StoreHeader, fingerprint, plan_parts
from arcpipe.store.verify import content_hash, verify
from arcpipe.store.verify_part import VerifyReport
from arcpipe.store.writer import StoreWriter, committed_parts

__all__ = [
    "PartRecord",
    "PlannedPart",
    "RepairReport",
    "Rounding",
    "Store",
    "StoreHeader",
    "StoreWriter",
    "VerifyReport",
    "advice",
    "check_place",
    "committed_parts",
    "content_hash",
    "create_or_open",
    "decoder_kind",
    "existing_decoder",
    "fingerprint",
    "load_decoder_file",
    "open_store",
    "open_writer",
    "plan_parts",
    "position_dtype",
    "repair",
    "save_decoder_file",
    "verify",
    "with_mended_images",
]
