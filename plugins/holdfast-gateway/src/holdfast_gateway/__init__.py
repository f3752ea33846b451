"""The web gateway: sessions for browsers and services, as a plugin of holdfast."""
