"""Which model states answer which questions, and where their answers looked."""
