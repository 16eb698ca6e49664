"""The ground every room stands on: errors, files, events, locks, seeds, hardware facts. No torch."""
