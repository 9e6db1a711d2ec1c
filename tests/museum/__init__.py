"""Real faults of inference libraries, each as a wrong algorithm that the checks must reject."""
