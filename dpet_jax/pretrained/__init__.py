"""Pre-trained networks: a pool of them, the choice by the data set, the start."""
