"""The policy in force: one atomic snapshot that every replica on one store agrees on."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from gateway.cascade.policy import Policy, Rung
from gateway.errors import PolicyRefused, StalePolicy, StoreUnavailable
from gateway.store.sealed import MAGIC, Seal
from gateway.store.store import Store

POLL_S = 0.4
_LEAST_PAUSE_S = 0.05  # between two looks, however loudly the store is announced to have changed
_ATTEMPTS = 5  # against other writers, for those who do not care what they replace
_log = logging.getLogger(__name__)


class Change(NamedTuple):
    """One replacement that took effect, or with a dry run would have."""

    before: Policy
    after: Policy


class LivePolicy:
    """Holds the current policy, follows the store, and changes it there.

    The highest version wins; of two with the same number, the store's. A store that lost its
    policy, or holds garbage, gets ours back. While the store is gone the last policy stays.
    """

    def __init__(
        self, initial: Policy, *, store: Store, secret: bytes, state_file: Path | None = None
    ) -> None:
        self._store = store
        self._seal = Seal(secret)
        self._key = "spillway:policy:" + ",".join(initial.ladder)
        self._state_file = state_file
        self._current = _newer(initial, _read_file(state_file, initial.ladder))
        self._lock = asyncio.Lock()
        self._said_foreign = False
        self._following: asyncio.Task[None] | None = None

    @property
    def current(self) -> Policy:
        """The snapshot a request keeps from beginning to end."""
        return self._current

    async def start(self) -> None:
        """Agree with the store, if it answers, and follow it from now on."""
        with contextlib.suppress(StoreUnavailable):
            await self.sync()
        self._following = asyncio.create_task(self._follow())

    async def aclose(self) -> None:
        """Stop following."""
        if self._following is not None:
            self._following.cancel()
            await asyncio.wait({self._following})

    async def replace(
        self,
        wanted: Callable[[Policy], tuple[Rung, ...]],
        *,
        expected_etags: frozenset[str] | None,
        dry_run: bool = False,
    ) -> Change:
        """Put the thresholds that ``wanted`` makes of the policy in force in its place, everywhere.

        ``expected_etags`` None: whatever is there. ``wanted`` may be called more than once.

        Raises:
            StalePolicy: the policy in force is none of those expected.
            StoreUnavailable: the store cannot be asked; nothing changed.
        """
        async with self._lock:
            for _ in range(_ATTEMPTS):
                raw = await self._agree()
                before = self._current
                if expected_etags is not None and before.etag not in expected_etags:
                    raise StalePolicy(before.etag)
                after = before.successor(wanted(before))
                if dry_run or await self._publish(after, raw):
                    return Change(before, after)
            raise StalePolicy(self._current.etag)

    async def sync(self) -> None:
        """Look at the store once.

        Raises:
            StoreUnavailable: it did not answer.
        """
        async with self._lock:
            await self._agree()

    async def _follow(self) -> None:
        while True:
            await self._store.wait_changed(self._key, POLL_S)
            await asyncio.sleep(_LEAST_PAUSE_S)
            try:
                await self.sync()
            except StoreUnavailable:
                continue
            except Exception:  # following must outlive whatever a store can hold
                _log.exception("policy not read; version %d stays", self._current.version)

    async def _agree(self) -> bytes | None:
        """Adopt the store's policy or give it ours; the bytes the store holds for it then."""
        for _ in range(_ATTEMPTS):
            raw = await self._store.load(self._key)
            found = self._open(raw)
            if found is not None and _overrules(found, self._current):
                self._adopt(found)
            if found is not None and found == self._current:
                return raw
            mine = self._sealed(self._current)
            if await self._store.compare_and_set(self._key, expected=raw, value=mine):
                return mine
        raise StoreUnavailable("the policy in the store keeps changing")

    async def _publish(self, policy: Policy, replaced: bytes | None) -> bool:
        sealed = self._sealed(policy)
        if not await self._store.compare_and_set(self._key, expected=replaced, value=sealed):
            return False
        self._adopt(policy)
        return True

    def _adopt(self, policy: Policy) -> None:
        self._current = policy
        _log.info("policy version %d is in force", policy.version)
        if self._state_file is not None:
            _write_file(self._state_file, policy)

    def _sealed(self, policy: Policy) -> bytes:
        return self._seal.close(self._key, policy.encode())

    def _open(self, raw: bytes | None) -> Policy | None:
        payload = self._seal.open(self._key, raw)
        if payload is None:
            if raw is not None and raw.startswith(MAGIC) and not self._said_foreign:
                self._said_foreign = True
                _log.error(
                    "the policy in the store was sealed with another secret and is replaced; "
                    "gateways on one Redis must share SPILLWAY_SECRET"
                )
            return None
        try:
            return Policy.decode(payload, self._current.ladder)
        except PolicyRefused as error:
            _log.error("the store holds a policy that cannot be used: %s", error)
            return None


def _overrules(found: Policy, ours: Policy) -> bool:
    return found.version > ours.version or (found.version == ours.version and found != ours)


def _newer(initial: Policy, kept: Policy | None) -> Policy:
    return initial if kept is None or kept.version < initial.version else kept


def _read_file(path: Path | None, ladder: tuple[str, ...]) -> Policy | None:
    """What an earlier run left, None when it left nothing that fits this ladder."""
    if path is None or not path.exists():
        return None
    try:
        kept = Policy.decode(path.read_bytes(), ladder)
    except (OSError, PolicyRefused) as error:
        _log.warning("the kept policy %s is not used: %s", path, error)
        return None
    _log.info("policy version %d was kept from an earlier run", kept.version)
    return kept


def _write_file(path: Path, policy: Policy) -> None:
    """Write aside and rename: a reader sees the old policy or the new one."""
    aside = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        aside.touch(mode=0o600)
        aside.write_bytes(policy.encode())
        aside.replace(path)
    except OSError as error:
        _log.error("the policy could not be kept in %s: %s", path, error)
