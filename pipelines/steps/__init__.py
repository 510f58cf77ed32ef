"""The steps of jobs: what each does, the table that orders them, the settings their keys are made of."""
