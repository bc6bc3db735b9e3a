"""The report of a run: what is shown of it, as a page, as Markdown and in the terminal."""
