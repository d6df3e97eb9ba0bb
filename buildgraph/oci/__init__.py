"""OCI images: types, layers, layouts, archives."""
