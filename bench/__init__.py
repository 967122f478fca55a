"""What a node costs. `core` measures, the suites beside it say what. See README.md."""
