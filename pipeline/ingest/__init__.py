"""The networks that people bring: checkpoints, factories and exported programs, read as data and made a Model."""
