"""Every knob of an installation, typed; the GPU catalogue; the catalogue of base models; secrets by name."""
