"""What is generated of the Helm chart: its values, their schema and reference, and the same rendered for kustomize."""
