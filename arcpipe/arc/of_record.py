"""What the decoders of the kinds `basis` and `siren` have in common: their arrays are those of their records."""

from __future__ import annotations

from arcpipe.cloud import BasisRecord, DecoderKind, SirenRecord


class OfRecord:
    """A decoder that is built around its record, and says of itself what the record says."""

    record: BasisRecord | SirenRecord

    @property
    def kind(self) -> DecoderKind:
        return self.record.kind

    @property
    def n_neighbours(self) -> int:
        return self.record.n_neighbours

    @property
    def latent_dim(self) -> int:
        return self.record.latent_dim

    @property
    def channels(self) -> int:
        return self.record.channels

    def to_record(self) -> BasisRecord | SirenRecord:
        return self.record
