"""Devices of other machines, reached by SSH: `device` is this end, `agent` the other one, `wire` what goes between."""
