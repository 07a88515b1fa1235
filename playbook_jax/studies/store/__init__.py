"""Study directories on disk: studies, groups, the ledger, adoptions."""
