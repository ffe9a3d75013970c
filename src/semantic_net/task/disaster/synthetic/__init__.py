"""Procedural aerial scenes after a disaster, with RescueNet's classes; numpy only."""
