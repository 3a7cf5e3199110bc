"""Versions that answer alike: the audits of one speak for the other.

Equal weights, labels and policy give equal answers and trust the same ones, so audits of either are draws from one and
the same stream. With another threshold they are not: other answers would have been audited.
"""

from collections.abc import Mapping

from store.buffer.ledger import AuditTally
from store.errors import RegistryError
from store.registry.manifest import answers_key
from store.registry.versions import Versions


class Audited:
    """What was audited of a lane's versions."""

    def __init__(self, versions: Versions) -> None:
        """Use the versions of the lane; each manifest is read once."""
        self._versions = versions
        self._keys: dict[str, str] = {}

    def of(self, champion: str | None, audits: Mapping[str, AuditTally]) -> AuditTally:
        """The audits of the champion and of all versions that answer as it does.

        Args:
            champion: the version that serves.
            audits: by version, as ingest has tallied them.
        """
        if champion is None:
            return AuditTally()
        key = self._key(champion)
        alike = [
            tally
            for version, tally in audits.items()
            if version == champion or (key is not None and self._key(version) == key)
        ]
        return AuditTally(audits=sum(one.audits for one in alike), agreed=sum(one.agreed for one in alike))

    def _key(self, version: str) -> str | None:
        """None for a version that is gone or not to be trusted: it is like no other."""
        if version not in self._keys:
            try:
                manifest = self._versions.manifest(version)
            except (RegistryError, OSError):
                return None
            self._keys[version] = answers_key(manifest, {name: entry.sha256 for name, entry in manifest.files.items()})
        return self._keys[version]
