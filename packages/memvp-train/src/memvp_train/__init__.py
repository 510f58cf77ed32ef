"""Training and inference of visual memories: one stage of tuning, on one process or on Ray; a folder each question."""
