"""`.l2z`: tensors, and the graph that they belong to, in one small file that decodes bit for bit (docs/l2z.md)."""
