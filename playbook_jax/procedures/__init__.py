"""The playbook's step-by-step procedures, each a study plus a reading of it."""
