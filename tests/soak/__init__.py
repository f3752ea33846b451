"""Sessions on every transport, under random faults, for as long as one likes."""
