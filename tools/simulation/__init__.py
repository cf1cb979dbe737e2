"""The launcher under virtual time: an ensemble in memory, seeded faults, a judge."""
