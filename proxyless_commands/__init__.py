"""The commands at the top of the repository, each in a file of its name: parse, build, run, print one record."""
