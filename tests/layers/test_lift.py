"""Frustum, rays and the lift-splat of whole rigs, against the formulas written out."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from perception.geometry.augmentation import image_matrix, lidar_matrix
from perception.geometry.grid import BEVGrid
from perception.geometry.projection import project
from perception.layers.lift import Frustum, LiftSplatTransform, camera_rays, frustum_points
from perception.layers.splat import OUTSIDE, SplatIndex, cells_of_rays, splat

LSS = Frustum((128, 352), 16, (4.0, 45.0, 1.0))
LSS_GRID = BEVGrid((-50.0, 50.0), (-50.0, 50.0), (-10.0, 10.0), (0.5, 0.5))


def frame_folder():
    root = os.environ.get("PERCEPTION_DATA")
    folder = Path(root or ".") / "bev" / "nuscenes_frame"
    if not (folder / "frame.json").is_file():
        pytest.skip(f"needs PERCEPTION_DATA with bev/nuscenes_frame; {folder} is not there")
    return folder


def real_rig():
    """(1, 6, 4, 4) float64 lidar2cam and cam2img of the nuScenes frame, and its file."""
    frame = json.loads((frame_folder() / "frame.json").read_text())
    lidar2cam = torch.tensor([c["lidar2cam"] for c in frame["cameras"].values()], dtype=torch.float64)
    cam2img = torch.eye(4, dtype=torch.float64).repeat(6, 1, 1)
    cam2img[:, :3, :3] = torch.tensor([c["cam2img"] for c in frame["cameras"].values()], dtype=torch.float64)
    return lidar2cam[None], cam2img[None], frame


def made_rig(batch=2, cameras=3, seed=0):
    """Rigid cameras anywhere, one of them with KITTI's fourth column."""
    random = np.random.default_rng(seed)
    rotations = np.linalg.qr(random.normal(size=(batch, cameras, 3, 3)))[0]
    rotations *= np.sign(np.linalg.det(rotations))[..., None, None]
    lidar2cam = np.tile(np.eye(4), (batch, cameras, 1, 1))
    lidar2cam[..., :3, :3], lidar2cam[..., :3, 3] = rotations, random.normal(size=(batch, cameras, 3))
    cam2img = np.tile(np.eye(4), (batch, cameras, 1, 1))
    cam2img[..., 0, 0] = cam2img[..., 1, 1] = random.uniform(200, 400, size=(batch, cameras))
    cam2img[..., 0, 2], cam2img[..., 1, 2] = 150, 60
    cam2img[:, 0, :3, 3] = (44.9, 0.2, 0.0027)
    return torch.from_numpy(lidar2cam), torch.from_numpy(cam2img)


def augmentations(batch=2, cameras=3):
    """One fixed image augmentation a camera, and one of the points a sample."""
    images = [
        image_matrix(0.2 + 0.01 * i, (3.0 * i, 20.0 - i), flip=i % 2 == 1, rotate=0.09 - 0.03 * i, size=(128, 352))
        for i in range(batch * cameras)
    ]
    points = [lidar_matrix(0.7 * (-1) ** b, 1.05 - 0.1 * b, (0.5, -0.3, 0.2), b == 0, b == 1) for b in range(batch)]
    return (
        torch.from_numpy(np.stack(images)).view(batch, cameras, 4, 4),
        torch.from_numpy(np.stack(points)),
    )


def literal_geometry(frustum, lidar2cam, cam2img, img_aug, lidar_aug):
    """The reference's steps, one point cloud after the other, in float64 numpy: (B, N, D, h, w, 3)."""
    height, width = frustum.image_size
    h, w = height // frustum.stride, width // frustum.stride
    d = np.arange(*frustum.depth)
    grid = np.stack(
        np.broadcast_arrays(
            np.linspace(0, width - 1, w)[None, None], np.linspace(0, height - 1, h)[None, :, None], d[:, None, None]
        ),
        -1,
    )
    out = np.empty((*lidar2cam.shape[:2], *grid.shape))
    for b in range(len(lidar2cam)):
        for n in range(lidar2cam.shape[1]):
            post_rot, post_tran = img_aug[b, n, :3, :3].numpy(), img_aug[b, n, :3, 3].numpy()
            p = (grid - post_tran) @ np.linalg.inv(post_rot).T
            p = np.concatenate([p[..., :2] * p[..., 2:], p[..., 2:]], -1)
            cam2lidar = np.linalg.inv(lidar2cam[b, n].numpy())
            intrinsics = cam2img[b, n, :3, :3].numpy()
            p = (p - cam2img[b, n, :3, 3].numpy()) @ np.linalg.inv(intrinsics).T
            p = p @ cam2lidar[:3, :3].T + cam2lidar[:3, 3]
            out[b, n] = p @ lidar_aug[b, :3, :3].numpy().T + lidar_aug[b, :3, 3].numpy()
    return torch.from_numpy(out)


def test_the_frustum_is_the_references():
    assert LSS.feature_size == (8, 22) and LSS.num_depths == 41
    points = LSS.points()
    assert points.shape == (41, 8, 22, 3)
    assert points[0, 0, 0].tolist() == [0, 0, 4] and points[-1, -1, -1].tolist() == [351, 127, 44]
    assert points[3, 2, 5].tolist() == pytest.approx([5 * 351 / 21, 2 * 127 / 7, 7])
    assert Frustum((256, 704), 8, (1.0, 60.0, 0.5)).num_depths == 118
    assert Frustum((256, 704), 16, (1.0, 60.0, 1.0)).num_depths == 59
    centres = Frustum((128, 352), 16, (4.0, 45.0, 1.0), exact_centres=True).pixels()
    assert centres[0, 0].tolist() == [8, 8] and centres[-1, -1].tolist() == [352 - 8, 128 - 8]
    with pytest.raises(ValueError, match="no multiple of the stride 16"):
        Frustum((120, 352), 16, (4.0, 45.0, 1.0))
    with pytest.raises(ValueError, match="positive"):
        Frustum((128, 352), 16, (4.0, 4.0, 1.0))


def test_geometry_is_the_literal_formula():
    (lidar2cam, cam2img), (img_aug, lidar_aug) = made_rig(), augmentations()
    rays, origins = camera_rays(LSS.pixels(), lidar2cam, cam2img, img_aug, lidar_aug)
    found = frustum_points(rays, origins, LSS.depths())
    expected = literal_geometry(LSS, lidar2cam, cam2img, img_aug, lidar_aug)
    torch.testing.assert_close(found, expected, atol=1e-9, rtol=0)
    low = camera_rays(LSS.pixels(), *(m.float() for m in (lidar2cam, cam2img, img_aug, lidar_aug)))
    torch.testing.assert_close(frustum_points(*low, LSS.depths()), expected, atol=1e-3, rtol=0)


def test_frustum_points_project_to_their_pixels():
    (lidar2cam, cam2img), (img_aug, lidar_aug) = made_rig(), augmentations()
    points = frustum_points(*camera_rays(LSS.pixels(), lidar2cam, cam2img, img_aug, lidar_aug), LSS.depths())
    uv, depth, mask = project(points.flatten(2, 4), lidar2cam, cam2img, img_aug, lidar_aug[:, None])
    assert mask.all()
    expected = LSS.points().flatten(0, 2)
    torch.testing.assert_close(uv, expected[:, :2].expand_as(uv), atol=1e-7, rtol=0)
    torch.testing.assert_close(depth, expected[:, 2].expand_as(depth), atol=1e-9, rtol=0)


def test_an_augmentation_that_touches_depth_is_refused():
    (lidar2cam, cam2img), (img_aug, _) = made_rig(), augmentations()
    img_aug[1, 2, 2, 2] = 1.1
    with pytest.raises(ValueError, match="img_aug changes depths"):
        camera_rays(LSS.pixels(), lidar2cam, cam2img, img_aug)


def transform(channels=6, **changes):
    torch.manual_seed(0)
    frustum = Frustum((64, 96), 16, (1.0, 20.0, 1.0))
    grid = BEVGrid((-10.0, 10.0), (-8.0, 8.0), (-5.0, 5.0), (0.5, 0.5))
    return LiftSplatTransform(channels, 4, frustum, grid, **changes)


def test_the_whole_transform_is_the_formula():
    module, (lidar2cam, cam2img), (img_aug, lidar_aug) = transform(), made_rig(), augmentations()
    features = torch.randn(2, 3, 6, 4, 6)
    found, alpha = module(features, lidar2cam, cam2img, img_aug, lidar_aug)
    geometry = literal_geometry(module.frustum, lidar2cam, cam2img, img_aug, lidar_aug)
    expected, used = {}, 0
    weight, bias = module.depthnet.weight.detach().double()[:, :, 0, 0], module.depthnet.bias.detach().double()
    out = torch.einsum("ok,bnkhw->bnohw", weight, features.double()) + bias[:, None, None]
    depths, context = out[:, :, :19].softmax(2), out[:, :, 19:]
    for b, n, d, i, j in np.ndindex(2, 3, 19, 4, 6):  # a dictionary of cells, one point after the other
        x, y, z = geometry[b, n, d, i, j].tolist()
        column, row = int(np.floor((x + 10) / 0.5)), int(np.floor((y + 8) / 0.5))
        if 0 <= column < 40 and 0 <= row < 32 and -5 <= z < 5:
            used += 1
            value = depths[b, n, d, i, j] * context[b, n, :, i, j]
            expected[b, row, column] = expected.get((b, row, column), 0) + value
    assert 100 < used < alpha.numel() and module.index(lidar2cam, cam2img, img_aug, lidar_aug).kept == used
    dense = torch.zeros(2, 4, 32, 40, dtype=torch.float64)
    for (b, row, column), value in expected.items():
        dense[b, :, row, column] = value
    torch.testing.assert_close(found.double(), dense, atol=1e-5, rtol=0)
    torch.testing.assert_close(alpha.sum(2), torch.ones(2, 3, 4, 6))


def test_the_index_follows_the_content_of_the_matrices():
    module, (lidar2cam, cam2img), (img_aug, lidar_aug) = transform(), made_rig(), augmentations()
    first = module.index(lidar2cam, cam2img, img_aug, lidar_aug)
    assert module.index(lidar2cam.clone(), cam2img, img_aug.clone(), lidar_aug) is first
    turned = lidar_aug.clone()
    turned[0, 0, 3] += 1.0
    other = module.index(lidar2cam, cam2img, img_aug, turned)
    assert other is not first and not (other.kept == first.kept and torch.equal(other.cell, first.cell))
    lidar_aug[0, 0, 3] += 1.0  # changed in place: the cache must not believe the object
    assert module.index(lidar2cam, cam2img, img_aug, lidar_aug) is other
    assert transform(cached_rigs=0).index(lidar2cam, cam2img).kept > 0


def real_augmentation(lidar=True):
    """A fixed image augmentation of the 128 x 352 setting for each of six cameras; and of the points."""
    resizes, crops = (0.193, 0.2, 0.207, 0.213, 0.219, 0.225), (0.0, 0.05, 0.1, 0.15, 0.2, 0.22)
    matrices = []
    for i, (resize, cut) in enumerate(zip(resizes, crops, strict=True)):
        new_w, new_h = int(1600 * resize), int(900 * resize)
        corner = ((new_w - 352) / 2, (1 - cut) * new_h - 128)
        matrices.append(
            image_matrix(resize, corner, flip=i % 2 == 0, rotate=np.deg2rad(2.16 * i - 5.4), size=(128, 352))
        )
    points = lidar_matrix(0.4, 1.05, (0.5, -0.2, 0.3), True, False) if lidar else np.eye(4)
    return torch.from_numpy(np.stack(matrices))[None], torch.from_numpy(points)[None]


@pytest.mark.parametrize("lidar", [False, True])
def test_real_frame_geometry_and_pooling(lidar):
    """LSS's setting with augmented cameras, and BEVFusion's with augmented points: cells, map and gradients."""
    lidar2cam, cam2img, _ = real_rig()
    img_aug, lidar_aug = real_augmentation(lidar)
    expected = literal_geometry(LSS, lidar2cam, cam2img, img_aug, lidar_aug)
    given = [m.float() for m in (lidar2cam, cam2img, img_aug, lidar_aug)]
    rays, origins = camera_rays(LSS.pixels(), *given)
    assert (frustum_points(rays, origins, LSS.depths()) - expected).norm(dim=-1).max() < (2e-3 if lidar else 1e-3)
    rays, origins = camera_rays(LSS.pixels(), lidar2cam, cam2img, img_aug, lidar_aug)
    kept = {}
    for compat, rounded in (("floor", np.floor), ("trunc", np.trunc)):
        place = rounded((expected.numpy() - np.array((-50, -50, -10))) / (0.5, 0.5, 20)).astype(int)
        kept[compat] = ((place >= 0) & (place < (200, 200, 1))).all(-1)
        cells = cells_of_rays(rays, origins, LSS.depths(), LSS_GRID, compat=compat)
        assert abs(int((cells != OUTSIDE).sum()) - kept[compat].sum()) <= 3  # float32 at the very edge
    # Truncation only adds, and only what lies less than a cell below the low edges.
    added = expected.numpy()[kept["trunc"] & ~kept["floor"]]
    assert len(added) > 0 and not (kept["floor"] & ~kept["trunc"]).any()
    below = np.stack([-50 - added[:, 0], -50 - added[:, 1], -10 - added[:, 2]], -1)
    assert (below.max(-1) > 0).all() and (below < (0.5, 0.5, 20)).all()

    cells = cells_of_rays(rays, origins, LSS.depths(), LSS_GRID)
    torch.manual_seed(0)
    alpha = torch.randn(cells.shape).softmax(2).requires_grad_()
    context = torch.randn(1, 6, 64, 8, 22, requires_grad=True)
    found = splat(alpha, context, SplatIndex.from_cells(cells, (200, 200, 1)))
    lifted = (alpha.double()[:, :, None] * context.double()[:, :, :, None]).permute(0, 1, 3, 4, 5, 2)
    inside = cells != OUTSIDE
    plain = torch.zeros(40000, 64, dtype=torch.float64).index_add(0, cells[inside].long(), lifted[inside])
    plain = plain.view(200, 200, 64).permute(2, 0, 1)
    assert (found[0].double() - plain).abs().max() < 2e-6
    # The reference sorts, sums up in float32 and takes differences.
    order = cells[inside].argsort(stable=True)
    rank, total = cells[inside][order], lifted[inside][order].float().cumsum(0)
    last = torch.cat([rank[1:] != rank[:-1], torch.tensor([True])])
    sums = total[last].diff(dim=0, prepend=torch.zeros(1, 64))
    reference = torch.zeros(40000, 64).index_copy(0, rank[last].long(), sums).view(200, 200, 64).permute(2, 0, 1)
    assert (found[0] - reference).abs().max() < 1e-4
    weight = torch.randn(64, 200, 200)
    ours = torch.autograd.grad((found[0] * weight).sum(), (alpha, context))
    theirs = torch.autograd.grad((plain * weight).sum(), (alpha, context))
    assert (ours[1] - theirs[1]).abs().max() < 1e-6 and (ours[0] - theirs[0]).abs().max() < 1e-5


def test_depth_of_lidar_puts_features_into_the_cells_of_its_points():
    lidar2cam, cam2img, _ = real_rig()
    img_aug = torch.from_numpy(image_matrix(0.22, (0, 70), size=(128, 352))).expand(1, 6, 4, 4)
    points = torch.from_numpy(np.fromfile(frame_folder() / "LIDAR_TOP.bin", np.float32).reshape(-1, 5)[:, :3].copy())
    fine = Frustum((128, 352), 1, (1.0, 60.0, 0.5), exact_centres=True)  # a feature a pixel: only depth is rounded
    uv, depth, seen = project(points[None].double(), lidar2cam[0], cam2img[0], img_aug[0], size=(128, 352))
    seen &= (depth >= 1) & (depth < 60)
    camera, point = seen.nonzero(as_tuple=True)
    bin_ = ((depth[seen] - 1) / 0.5).round().clamp(max=fine.num_depths - 1).long()
    column, row = uv[seen].floor().long().unbind(-1)
    rays, origins = camera_rays(fine.pixels(), lidar2cam, cam2img, img_aug)
    own_row, own_column, inside = LSS_GRID.index(points[point])
    inside &= (points[point, 2] >= -10) & (points[point, 2] < 10)
    near = []
    for n in range(6):
        cells = cells_of_rays(rays[:, n : n + 1], origins[:, n : n + 1], fine.depths(), LSS_GRID)[0, 0]
        mine = (camera == n) & inside
        cell = cells[bin_[mine], row[mine], column[mine]].long()
        off = torch.stack([cell // 200 - own_row[mine], cell % 200 - own_column[mine]]).abs().amax(0)
        near.append((cell != OUTSIDE) & (off <= 1))
    near = torch.cat(near)
    assert len(near) > 5000 and near.float().mean() >= 0.99


def test_one_hot_depth_puts_the_feature_into_one_cell():
    """End to end by hand: a camera at the origin looks along +y; its middle pixel at 10 m lies at (0, 10)."""
    lidar2cam = torch.tensor([[1.0, 0, 0, 0], [0, 0, -1, 0], [0, 1, 0, 0], [0, 0, 0, 1]])[None, None]
    cam2img = torch.tensor([[100.0, 0, 48, 0], [0, 100, 32, 0], [0, 0, 1, 0], [0, 0, 0, 1]])[None, None]
    frustum = Frustum((64, 96), 32, (1.0, 20.0, 1.0), exact_centres=True)  # columns at 16, 48, 80; rows at 16, 48
    grid = BEVGrid((-10.5, 10.5), (-0.5, 20.5), (-5.0, 5.0), (1.0, 1.0))
    module = LiftSplatTransform(1, 1, frustum, grid)
    alpha = torch.zeros(1, 1, 19, 2, 3)
    alpha[0, 0, 9, 0, 1] = 1.0
    context = torch.full((1, 1, 1, 2, 3), 5.0)
    out = splat(alpha, context, module.index(lidar2cam, cam2img))
    assert out[0, 0, 10, 10] == 5 and out.sum() == 5  # y = 10 is row 10, x = 0 is column 10
    alpha.zero_()[0, 0, 9, 1, 2] = 1.0
    out = splat(alpha, context, module.index(lidar2cam, cam2img))
    assert out[0, 0, 10, 13] == 5 and out.sum() == 5  # (80 - 48) / 100 * 10 m = 3.2 m to the right
