"""Model files into small files, and back: the arrow of the flow that `compress pack` is."""
