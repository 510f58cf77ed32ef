"""Official files of each benchmark in, samples out: one file per benchmark."""
