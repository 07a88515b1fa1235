"""Study directories read into tables: what every check and figure works on."""
