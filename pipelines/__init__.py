"""The job: raw images to an evaluated, registered adapter. Steps, tracking, recipes; the work is in packages/."""
