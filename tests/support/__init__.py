"""What tests share: a site on a local cluster, launchers, and others' view of both."""
