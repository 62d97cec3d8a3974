"""Every setting, in pydantic models that own it; presets.

Public: `schema.Config`, `load.load_config`.
"""
