"""Frames, boxes, projection and grids of scenes in metres: functions of numpy arrays and tensors, without a framework.

``A2B`` maps coordinates in A to coordinates in B, column vectors: p_B = A2B p_A. Matrices are built in float64 and cast
at the end. Boxes are x, y, z, l, w, h, yaw with z of the centre, in the LiDAR frame.
"""
