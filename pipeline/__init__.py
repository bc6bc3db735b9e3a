"""The flow, one file an arrow: recipe, ingest, run, export, prove, measure, judge, report."""
