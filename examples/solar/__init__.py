"""Solar-cell inspection: the real work that the tool is proven on."""
