"""The workshop of `gates`: what each choice is worth, what it costs, and which of them stay."""
