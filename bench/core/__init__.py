"""What all suites share: the command line, rounds, brokers, processes, the machine, the tables."""
