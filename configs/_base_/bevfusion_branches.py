"""The branches of BEVFusion (Liu et al., 2023): pillars of 0.2 m and a Swin-T, maps of 128 x 128 cells of 0.8 m."""

lidar = dict(type="PillarNet", preset="bevfusion", voxelisation="dynamic", include_padding=False)
camera = dict(
    type="LiftSplat",
    preset="bevfusion-camera-det",
    image_backbone=dict(
        type="TimmModel",
        name="swin_tiny_patch4_window7_224",
        pretrained=True,  # ImageNet, as BEVFusion
        out_indices=(1, 2, 3),
        window_size=7,
        drop_path_rate=0.2,
    ),
)
