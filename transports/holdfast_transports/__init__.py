"""The transports that come with holdfast, written against its public names like anybody's."""
