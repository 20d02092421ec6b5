"""Committing to an object store, which has no rename: arrays first, `zarr.json` last, and one attempt decides.

Two attempts at one part may differ in bytes (another processor rounds otherwise), and keys in a Zarr hierarchy are
fixed, so their files must never mix. Therefore:

1. An attempt is written and checked in a local folder, then put below `.attempts/<split>-<part>/<attempt>/`.
2. It is chosen by creating `.attempts/<split>-<part>/chosen`, if absent. One attempt wins.
3. Whoever finds a choice (winner, loser, the next run) carries it out: copies the chosen files to their final keys
   inside the bucket, reads them back, and creates the group's `zarr.json`, if absent. All copy the same bytes, so that
   it does no harm to do it twice, or half, or late.
4. Then the attempts of this part are deleted. A choice that is made after that finds the part committed, and stops.

So a commit needs no lock and no clock, only create-if-absent and that a read sees what was written before.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from arcpipe import objects
from arcpipe.errors import DamagedStoreError, StoreBusyError
from arcpipe.objects import Address
from arcpipe.place import RemotePath

ATTEMPTS = ".attempts"
"""Inside an unfinished store: where parts are before they are committed."""
TRIES = 4  # of carrying out a choice that vanishes meanwhile


@dataclass(frozen=True)
class Choice:
    """The attempt that becomes a group. `files`: bytes and sha256 of each, by name below the group."""

    tag: str
    target: str
    files: dict[str, dict[str, int | str]]


def staging_folder() -> Path:
    """Where this user's attempts are written before they are sent: local and temporary."""
    return Path(tempfile.gettempdir()) / f"arcpipe-staging-{os.getuid()}"


def publish_objects(
    attempt: Path, final: RemotePath, store: RemotePath, tag: str, files: dict[str, dict[str, int | str]]
) -> bool:
    """Commit the local folder `attempt` as the group `final` of `store`. False where another one was committed.

    Args:
        tag: A name no other attempt has.
        files: Bytes and sha256 of every file in `attempt`.

    Raises:
        DamagedStoreError: what was read back is not what was written.
        StoreBusyError: somebody keeps deleting what is put.
        RemoteStoreError, FileAccessError, NoSpaceError: the service's refusals.
    """
    target = "/".join(final.relative_to(store).parts)
    place = _place(store, target)
    try:
        for _ in range(TRIES):
            choice = _read_choice(place)
            if choice is None:
                if _committed(final):
                    return False
                objects.each(lambda name: objects.put(_at(place / tag, name), attempt / name), files)
                choice = _choose(place, Choice(tag, target, files))
            if choice is None:
                continue
            if _carry_out(place, choice, final):
                return choice.tag == tag
            # Its files were deleted and it is not committed: nobody can carry it out any more.
            objects.delete(place.address.root, [_at(place, "chosen").key])
    finally:
        with contextlib.suppress(Exception), objects.impatient():
            if _read_choice(place) is None:  # ours was never chosen
                _delete_below(place / tag)
    raise StoreBusyError(f"{final} appears and disappears.", fix=["run the same command again"])


def recover(store: RemotePath) -> int:
    """Carry out the choices that killed runs left. Returns how many."""
    done = 0
    for place in [path for path in (store / ATTEMPTS).iterdir() if path.name]:
        choice = _read_choice(place)
        if choice is not None:
            _carry_out(place, choice, store.joinpath(*choice.target.split("/")) if choice.target else store)
            done += 1
    return done


def drop_objects(group: RemotePath, store: RemotePath) -> None:
    """Take a committed group back: first what could commit it again, then its `zarr.json`, then its files."""
    _delete_below(_place(store, "/".join(group.relative_to(store).parts)))
    objects.delete(group.address.root, [(group / "zarr.json").address.key])
    _delete_below(group)


def move_objects(source: RemotePath, target: RemotePath, store: RemotePath) -> None:
    """Move a group of a store, or one object in it, to another prefix of the bucket."""
    keys = [key for key, _ in objects.listing(source.address)] or [source.address.key]
    root, start = source.address.root, len(source.address.key)
    objects.each(lambda key: objects.copy(Address(root, key), Address(root, target.address.key + key[start:])), keys)
    drop_objects(source, store)
    objects.delete(root, [source.address.key])


def delete_attempts(store: RemotePath) -> None:
    """Delete what attempts left. Only of a store whose parts are all committed: one at work could still be chosen."""
    _delete_below(store / ATTEMPTS)


def blocks_sha256(path: RemotePath) -> str:
    """Hash an object without holding it in memory."""

    def read() -> str:
        digest = hashlib.sha256()
        for block in objects.stream(path.address):
            digest.update(block)
        return digest.hexdigest()

    return objects.patiently(path.address, read)  # all over again where the connection broke


def object_sizes(folder: RemotePath) -> dict[str, int]:
    """Bytes of every object below `folder`, by name below it: one request for a part."""
    start = len(folder.address.key) + 1
    return {key[start:]: n_bytes for key, n_bytes in objects.listing(folder.address)}


def _carry_out(place: RemotePath, choice: Choice, final: RemotePath) -> bool:
    """Make a choice the group `final`. False where its files have gone and nothing is committed: dropped meanwhile."""
    if not _committed(final):
        payload = place / choice.tag
        names = [name for name in choice.files if name != "zarr.json"]
        try:
            objects.each(lambda name: objects.copy(_at(payload, name), _at(final, name)), names)
            document = objects.get(_at(payload, "zarr.json"))
            objects.each(lambda name: _require_same(final.joinpath(*name.split("/")), choice.files[name]), names)
        except FileNotFoundError:  # they are deleted once the part is committed
            if not _committed(final):
                return False
        else:
            with contextlib.suppress(FileExistsError):  # by another one, from the same files
                objects.create(_at(final, "zarr.json"), document)
    _delete_below(place)
    return True


def _choose(place: RemotePath, choice: Choice) -> Choice | None:
    document = {"attempt": choice.tag, "target": choice.target, "files": choice.files}
    try:
        objects.create(_at(place, "chosen"), (json.dumps(document, indent=1) + "\n").encode())
    except FileExistsError:
        return _read_choice(place)
    return choice


def _read_choice(place: RemotePath) -> Choice | None:
    try:
        document = json.loads(objects.get(_at(place, "chosen")))
    except FileNotFoundError:
        return None
    return Choice(document["attempt"], document["target"], document["files"])


def _require_same(path: RemotePath, expected: dict[str, int | str]) -> None:
    if blocks_sha256(path) != expected["sha256"]:
        raise DamagedStoreError(
            f"{path} is not what was written when it was read back.",
            details=["the service or the network changes bytes"],
            fix=["run the same command again", "if it comes back, tell whoever runs the service"],
        )


def _committed(final: RemotePath) -> bool:
    return (final / "zarr.json").is_file()


def _place(store: RemotePath, target: str) -> RemotePath:
    return store / ATTEMPTS / (target.replace("/", "-") or "store")


def _at(folder: RemotePath, name: str) -> Address:
    return folder.joinpath(*name.split("/")).address


def _delete_below(folder: RemotePath) -> None:
    objects.delete(folder.address.root, [key for key, _ in objects.listing(folder.address)])
