"""One module per framework, each with the same two doors: `inspect` reads a bare file's signature, the class answers."""
