import hashlib
import io
import tarfile
import zipfile

import pytest

from perception.datasets.downloads import RemoteFile, extract, fetch_file, verify
from perception.errors import DataError

WORDS = b"band values " * 100_000  # more than one block of the copy


def remote(path, checksum="sha256", name="copy.bin"):
    digest = hashlib.new(checksum, path.read_bytes()).hexdigest()
    return RemoteFile(name, path.as_uri(), f"{checksum}:{digest}")


@pytest.fixture
def published(tmp_path):
    path = tmp_path / "published.bin"
    path.write_bytes(WORDS)
    return path


@pytest.mark.parametrize("checksum", ["md5", "sha256"])
def test_a_file_is_fetched_whole_and_once(published, tmp_path, checksum):
    source, folder = remote(published, checksum), tmp_path / "a" / "b"
    assert fetch_file(source, folder).read_bytes() == WORDS
    published.unlink()  # the second time nothing is fetched
    assert fetch_file(source, folder) == folder / "copy.bin"
    assert [path.name for path in folder.iterdir()] == ["copy.bin"]


def test_a_wrong_checksum_leaves_nothing_behind(published, tmp_path):
    source = remote(published)
    published.write_bytes(WORDS[:-1])
    with pytest.raises(DataError, match=r"copy\.bin in .* has the sha256 [0-9a-f]{64}, but [0-9a-f]{64} was published"):
        fetch_file(source, tmp_path / "into")
    assert list((tmp_path / "into").iterdir()) == []


def test_a_present_file_with_another_checksum_is_refused_and_kept(published, tmp_path):
    source = remote(published)
    (tmp_path / "copy.bin").write_bytes(b"mine")
    with pytest.raises(DataError, match="delete it to fetch it from file:"):
        fetch_file(source, tmp_path)
    assert (tmp_path / "copy.bin").read_bytes() == b"mine"
    with pytest.raises(DataError, match=r"damaged or another version$"):
        verify(tmp_path / "copy.bin", source)


def test_missing_files_and_folders_that_cannot_be_made_are_named(published, tmp_path):
    source = remote(published)
    with pytest.raises(DataError, match=r"published\.bin could not be fetched to .*copy\.bin"):
        fetch_file(source, published)  # a file where a folder must be
    published.unlink()
    with pytest.raises(DataError, match=r"published\.bin could not be fetched to .*No such file"):
        fetch_file(source, tmp_path / "into")


def test_no_download_without_a_checksum():
    for checksum in ("", "md5:123", "sha1:" + "0" * 40, "md5:" + "g" * 32):
        with pytest.raises(ValueError, match="is no 'md5:"):
            RemoteFile("a", "https://example.org/a", checksum)
    with pytest.raises(ValueError, match="is none of https"):
        RemoteFile("a", "ftp://example.org/a", "md5:" + "0" * 32)


def write_zip(path, members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in members:
            file.writestr(name, data)
    return path


def write_tar(path, members, mode="w:gz"):
    with tarfile.open(path, mode) as file:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            file.addfile(member, io.BytesIO(data))
    return path


FILES = [("set/Forest/1.tif", b"one"), ("set/Forest/2.tif", WORDS), ("lists.txt", b"1")]


@pytest.mark.parametrize("kind", ["zip", "w", "w:gz", "w:bz2", "w:xz"])
def test_archives_are_unpacked_below_the_folder(tmp_path, kind):
    archive = tmp_path / "archive"
    write_zip(archive, FILES) if kind == "zip" else write_tar(archive, FILES, kind)
    folder = tmp_path / "into"
    folder.mkdir()
    assert extract(archive, folder) == ["lists.txt", "set"]
    found = {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    assert found == dict(FILES)
    with pytest.raises(DataError, match=r"would replace 'lists\.txt'"):
        extract(archive, folder)
    assert sorted(path.name for path in folder.iterdir()) == ["lists.txt", "set"]


def test_entries_of_folders_and_a_leading_point(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as file:
        for name in (".", "./set", "./set/empty"):
            member = tarfile.TarInfo(name)
            member.type, member.mode = tarfile.DIRTYPE, 0o4777
            file.addfile(member)
    assert extract(tmp_path / "a.tar", tmp_path) == ["set"]
    assert (tmp_path / "set" / "empty").is_dir()
    assert not (tmp_path / "set" / "empty").stat().st_mode & 0o4002  # permissions are not the archive's


@pytest.mark.parametrize("writer", [write_zip, write_tar])
@pytest.mark.parametrize("name", ["/etc/evil", "../evil", "set/../../evil", "..\\evil", "C:evil"])
def test_paths_that_leave_the_folder_are_refused(tmp_path, writer, name):
    folder = tmp_path / "deep" / "into"
    folder.mkdir(parents=True)
    archive = writer(tmp_path / "archive", [("set/good.tif", b"1"), (name, b"evil")])
    with pytest.raises(DataError, match=r"unsafe path .*evil.*nothing was unpacked"):
        extract(archive, folder)
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == [archive] and list(folder.iterdir()) == []


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_links_and_devices_of_a_tar_are_refused(tmp_path, kind):
    with tarfile.open(tmp_path / "a.tar", "w") as file:
        member = tarfile.TarInfo("set/evil")
        member.type, member.linkname = kind, "/etc/passwd"
        file.addfile(member)
    with pytest.raises(DataError, match="'set/evil', a link or device"):
        extract(tmp_path / "a.tar", tmp_path)
    assert not (tmp_path / "set").exists()


def test_links_and_secrets_of_a_zip_are_refused(tmp_path):
    link = zipfile.ZipInfo("set/evil")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        file.writestr(link, "/etc/passwd")
    with pytest.raises(DataError, match="'set/evil', a link or device"):
        extract(tmp_path / "a.zip", tmp_path)
    data = bytearray(write_zip(tmp_path / "b.zip", [("a.tif", b"1")]).read_bytes())
    data[data.index(b"PK\1\2") + 8] |= 1  # the flag in the central directory
    (tmp_path / "b.zip").write_bytes(data)
    with pytest.raises(DataError, match="is encrypted"):
        extract(tmp_path / "b.zip", tmp_path)


def test_damaged_archives_leave_nothing_behind(tmp_path):
    folder = tmp_path / "into"
    folder.mkdir()
    noise = hashlib.sha256(b"").digest() * 4000
    for number, archive in enumerate(
        (write_zip(tmp_path / "a.zip", [("a.tif", noise)]), write_tar(tmp_path / "a.tgz", [("a.tif", noise)]))
    ):
        data = bytearray(archive.read_bytes())
        for name, broken in (("cut", data[: len(data) // 2]), ("text", b"not an archive")):
            path = tmp_path / f"{name}{number}"
            path.write_bytes(broken)
            with pytest.raises(DataError, match=rf"{name}{number}' is damaged, or no zip or tar"):
                extract(path, folder)
    twice = write_tar(tmp_path / "twice.tar", [("a.tif", b"1"), ("a.tif", b"2")])
    with pytest.raises(DataError, match=r"cannot be unpacked .*File exists"):
        extract(twice, folder)
    with pytest.raises(DataError, match="is empty"):
        extract(write_zip(tmp_path / "empty.zip", []), folder)
    assert list(folder.iterdir()) == []


def test_what_does_not_fit_is_refused_before_it_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr("perception.datasets.downloads.shutil.disk_usage", lambda path: type("U", (), {"free": 10})())
    with pytest.raises(DataError, match="more than the free space"):
        extract(write_zip(tmp_path / "a.zip", FILES), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["a.zip"]
