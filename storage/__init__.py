"""Where bytes live: artifacts below one fsspec root, manifests that commit them, path confinement."""
