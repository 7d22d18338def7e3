"""`penstock doctor`: what a cluster lacks for serving. `look` reads the cluster, `checks` are pure: sight in, findings out."""
