"""Knows how a container's file tree is put together from mounts; must not know who runs in it.

Runs in the child, in a mount namespace of its own, before any code of the image: nobody else can
change a path meanwhile. Every mount is made detached and attached by fd; a path of the image is
only ever resolved below the root's fd, and for /proc, /sys and /dev with no link allowed.

Mount points that the image lacks come from a layer of empty stubs at the very bottom of the
overlay, in a memory file system: nothing is created in `upper`, so nothing has to be taken away
again. Where a layer hides the stub (a whiteout, an opaque directory, a link elsewhere), the
overlay is made a second time with a layer of stubs on top, in which every directory that the image
has is a copy of the image's. Standard library and buildgraph.kernel alone.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import Any, Final

from buildgraph import kernel as k
from buildgraph.sandbox.inroot import (
    Refused,
    below,
    canonical,
    copy_attributes,
    make_directories,
    make_stub,
)

_NOTHING: Final = k.MOUNT_ATTR_NOSUID | k.MOUNT_ATTR_NODEV | k.MOUNT_ATTR_NOEXEC
_MAX_LOWERS: Final = 500  # OVL_MAX_STACK
_FSCONFIG_STRING: Final = 255

# Documentation/admin-guide/devices.txt
_NODES: Final = (
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
)
_LINKS: Final = (
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
)


class RootBuilder:
    """Puts one container's tree together below `scratch`, an empty directory of the host.

    `store` is the directory whose files already have shifted ids, `base` the first id of the
    container as seen from here, `userns` an fd of its user namespace or -1.
    """

    def __init__(self, plan: dict[str, Any], scratch: str, store: str, base: int, userns: int):
        self.plan = plan
        self.scratch = scratch
        self.store = store
        self.base = base
        self.userns = userns
        self.doing = ""
        self.root = -1
        self.dev = -1

    # -- the whole ---------------------------------------------------------------------------

    def build(self) -> None:
        """Make the root and move into it. Raises OSError or Refused; `doing` says at what."""
        plan = self.plan
        os.umask(0)
        sources = [self._open_source(mount) for mount in plan["mounts"]]
        self.doing = "making room in memory"
        room = k.new_filesystem("tmpfs", {"mode": "0755"}, k.MOUNT_ATTR_NOSUID | k.MOUNT_ATTR_NODEV)
        k.move_mount(room, k.AT_FDCWD, self.scratch)
        os.fchdir(room)
        for name in ("stub", "root", "files", "empty", "over"):
            os.mkdir(name, 0o755)
        targets = self._targets(sources)
        for path, is_dir in targets:
            make_stub("stub", path, is_dir)
        places = self._overlay_with_targets(targets)
        self._attach_dev(places["/dev"])
        self._attach_proc(places["/proc"])
        self._attach_sys(places["/sys"])
        for index, (target, content, mode, uid, gid) in enumerate(plan["files"]):
            self.doing = f"mounting the file {target}"
            self._attach_file(f"files/{index}", content, mode, uid, gid, places[target])
        for index, mount in enumerate(plan["mounts"]):
            self.doing = f"mounting {mount[1]}"
            fd = sources[index] if sources[index] >= 0 else self._new_mount(mount, index)
            k.move_mount(fd, self._again(mount[1]))
            os.close(fd)
        if plan["make_cwd"]:
            self._make_cwd(plan["cwd"])
        if plan["read_only_root"]:
            k.mount_setattr(self.root, set_=k.MOUNT_ATTR_RDONLY)
        self.doing = "changing the root"
        os.fchdir(self.root)
        k.pivot_root(".", ".")
        k.umount(".", k.MNT_DETACH)
        os.chdir("/")

    def _targets(self, sources: list[int]) -> list[tuple[str, bool]]:
        targets = [("/dev", True), ("/proc", True), ("/sys", True)]
        targets += [(file[0], False) for file in self.plan["files"]]
        for mount, source in zip(self.plan["mounts"], sources, strict=True):
            is_dir = stat.S_ISDIR(os.fstat(source).st_mode) if source >= 0 else mount[0] != "file"
            targets.append((mount[1], is_dir))
        return targets

    # -- the overlay -------------------------------------------------------------------------

    def _overlay_with_targets(self, targets: list[tuple[str, bool]]) -> dict[str, int]:
        """Attach the overlay on `root` and return an fd for each target."""
        self._attach_overlay([])
        places, missing = self._resolve(targets)
        if missing:
            self.doing = "making mount points"
            os.mkdir("top", 0o755)
            for path, is_dir in missing:
                self._make_top_stub(path, is_dir)
            for fd in places.values():
                os.close(fd)
            os.close(self.root)
            k.umount("root")
            self._forget_volatile()
            self._attach_overlay(["top"])
            places, missing = self._resolve(targets)
        if missing:
            raise Refused(f"the image has no place for {missing[0][0]}")
        return places

    def _resolve(
        self, targets: list[tuple[str, bool]]
    ) -> tuple[dict[str, int], list[tuple[str, bool]]]:
        places: dict[str, int] = {}
        missing = []
        for path, is_dir in targets:
            self.doing = f"looking for {path} in the image"
            try:
                fd = self._again(path)
            except FileNotFoundError:
                missing.append((path, is_dir))
                continue
            if stat.S_ISDIR(os.fstat(fd).st_mode) != is_dir:
                raise Refused(f"{path} of the image is {'a file' if is_dir else 'a directory'}")
            places[path] = fd
        return places, missing

    def _again(self, path: str) -> int:
        """Open a mount point below the root; /proc, /sys and /dev with no link on the way."""
        links = k.RESOLVE_NO_MAGICLINKS
        if path in ("/dev", "/proc", "/sys"):
            links |= k.RESOLVE_NO_SYMLINKS
        try:
            return k.openat2(self.root, path, os.O_PATH, k.RESOLVE_IN_ROOT | links)
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise Refused(f"{path} of the image is a symbolic link") from None
            raise

    def _attach_overlay(self, top: list[str]) -> None:
        self.doing = "mounting the layers"
        plan = self.plan
        lowers = [*top, *plan["lowers"], "stub"]
        if len(lowers) > _MAX_LOWERS:
            lowers = [*self._fold(lowers[:-1]), "stub"]
        if len(lowers) == 1 and plan["upper"] is None:
            lowers.append("empty")
        fd = self._overlay(lowers, plan["upper"], plan["work"])
        k.move_mount(fd, k.AT_FDCWD, "root")
        self.root = fd

    def _fold(self, lowers: list[str]) -> list[str]:
        """Replace the deepest layers by one read-only overlay of them: two may be stacked."""
        keep = _MAX_LOWERS - 2  # beside the folded ones and our stubs
        if len(lowers) - keep > _MAX_LOWERS:
            raise Refused(f"{len(lowers)} layers are more than overlayfs can stack; flatten them")
        os.makedirs("deep", 0o755, exist_ok=True)
        fd = self._overlay(lowers[keep:], None, None)
        k.move_mount(fd, k.AT_FDCWD, "deep")
        os.close(fd)
        return [*lowers[:keep], "deep"]

    def _overlay(self, lowers: list[str], upper: str | None, work: str | None) -> int:
        if self.plan["legacy_overlay"]:
            return self._overlay_by_mount(lowers, upper, work)
        options: list[tuple[str, str | None]] = [("lowerdir+", self._short(p)) for p in lowers]
        if upper is not None and work is not None:
            options += [("upperdir", self._short(upper)), ("workdir", self._short(work))]
            options.append(("volatile", None))
        options += [(key, value) for key, value in _overlay_options(self.plan["userxattr"])]
        fd = k.fsopen("overlay")
        try:
            for key, value in options:
                k.fsconfig(fd, key, value)
            k.fscreate(fd)
            return k.fsmount(fd, k.MOUNT_ATTR_NODEV)
        finally:
            os.close(fd)

    def _short(self, path: str) -> str:
        """Return a name of `path` that fits one option: fsconfig(2) takes 255 bytes of text."""
        if len(os.fsencode(path)) <= _FSCONFIG_STRING and "\\" not in path and ":" not in path:
            return path
        return f"/proc/self/fd/{os.open(path, os.O_PATH | os.O_DIRECTORY)}"

    def _overlay_by_mount(self, lowers: list[str], upper: str | None, work: str | None) -> int:
        """As `_overlay` by mount(2), whose options must fit a page: so through short links."""
        here = f"l{len(os.listdir('.'))}"
        os.mkdir(here, 0o755)
        for index, path in enumerate(lowers):
            os.symlink(path if path.startswith("/") else f"../{path}", f"{here}/{index}")
        data = "lowerdir=" + ":".join(map(str, range(len(lowers))))
        if upper is not None and work is not None:
            os.symlink(upper, f"{here}/u")
            os.symlink(work, f"{here}/w")
            data += ",upperdir=u,workdir=w,volatile"
        for key, value in _overlay_options(self.plan["userxattr"]):
            data += f",{key}" if value is None else f",{key}={value}"
        back = os.open(".", os.O_PATH)
        os.mkdir(f"{here}/m")
        os.chdir(here)
        k.mount("overlay", "m", "overlay", k.MS_NODEV, data)
        fd = k.open_tree(k.AT_FDCWD, "m", k.OPEN_TREE_CLONE)
        k.umount("m", k.MNT_DETACH)
        os.fchdir(back)
        os.close(back)
        return fd

    def _forget_volatile(self) -> None:
        """Let the work directory be used again: nothing ran, so nothing can have been lost."""
        if self.plan["work"] is None:
            return
        place = f"{self.plan['work']}/work/incompat"
        for remove, path in (
            (os.unlink, "/volatile/dirty"),
            (os.rmdir, "/volatile"),
            (os.rmdir, ""),
        ):
            try:
                remove(place + path)
            except FileNotFoundError:
                pass

    def _make_top_stub(self, path: str, is_dir: bool) -> None:
        """Make `path`, its links resolved in the root, in the layer `top`."""
        parts = canonical(self.root, path)
        here, seen = "top", ""
        for index, part in enumerate(parts):
            here, seen = f"{here}/{part}", f"{seen}/{part}"
            if os.path.lexists(here):
                continue
            last = index == len(parts) - 1
            if last and not is_dir:
                os.close(os.open(here, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644))
                continue
            os.mkdir(here, 0o755)
            try:
                fd = k.openat2(self.root, seen, os.O_PATH, k.RESOLVE_IN_ROOT)
            except FileNotFoundError:
                continue
            copy_attributes(f"/proc/self/fd/{fd}", here)
            os.close(fd)

    def _make_cwd(self, cwd: str) -> None:
        """Make what is missing of the working directory, its links followed inside the root."""
        self.doing = f"making the working directory {cwd}"
        make_directories(self.root, cwd)

    # -- /dev, /proc, /sys ---------------------------------------------------------------------

    def _attach_dev(self, place: int) -> None:
        self.doing = "making /dev"
        dev = k.new_filesystem("tmpfs", {"mode": "0755", "size": "64m"}, k.MOUNT_ATTR_NOSUID)
        for name in ("pts", "shm", "mqueue"):
            os.mkdir(name, 0o755, dir_fd=dev)
        for name, target in _LINKS:
            os.symlink(target, name, dir_fd=dev)
        if self.plan["mknod"]:
            for name, major, minor in _NODES:
                os.mknod(name, stat.S_IFCHR | 0o666, os.makedev(major, minor), dir_fd=dev)
        k.move_mount(dev, place)
        if not self.plan["mknod"]:
            self._bind_nodes(dev)
        self.dev = dev
        pts: dict[str, str | None] = {"ptmxmode": "0666", "mode": "0620"}
        if self.plan["tty_gid"] is not None:
            pts["gid"] = str(self.plan["tty_gid"])
        shm: dict[str, str | None] = {"mode": "1777", "size": str(self.plan["shm"])}
        quiet = k.MOUNT_ATTR_NOSUID | k.MOUNT_ATTR_NOEXEC
        self._attach_new("devpts", pts, quiet, dev, "pts")
        self._attach_new("tmpfs", shm, _NOTHING, dev, "shm")
        self._attach_new("mqueue", {}, _NOTHING, dev, "mqueue")

    def _attach_new(
        self, kind: str, options: dict[str, str | None], attributes: int, at: int, name: str
    ) -> None:
        fd = k.new_filesystem(kind, options, attributes)
        k.move_mount(fd, at, name)
        os.close(fd)

    def _bind_nodes(self, dev: int) -> None:
        """Bind the host's nodes, where mknod(2) is void; each must be the device it is named."""
        for name, major, minor in _NODES:
            os.close(os.open(name, os.O_CREAT | os.O_WRONLY, 0o666, dir_fd=dev))
            fd = k.open_tree(k.AT_FDCWD, f"/dev/{name}", k.OPEN_TREE_CLONE)
            info = os.fstat(fd)
            if not stat.S_ISCHR(info.st_mode) or info.st_rdev != os.makedev(major, minor):
                raise Refused(f"/dev/{name} of the host is not the device {major}:{minor}")
            k.move_mount(fd, dev, name)
            os.close(fd)

    def _attach_proc(self, place: int) -> None:
        self.doing = "mounting /proc"
        proc = k.new_filesystem("proc", {}, _NOTHING)
        if k.statfs_type(proc) != k.PROC_SUPER_MAGIC:
            raise Refused("the kernel gave something else than procfs")
        k.move_mount(proc, place)
        self._hide(proc, "/proc")
        os.close(proc)

    def _attach_sys(self, place: int) -> None:
        self.doing = "mounting /sys"
        try:
            read_only = 0 if self.plan["writable_sys"] else k.MOUNT_ATTR_RDONLY
            sysfs = k.new_filesystem("sysfs", {}, _NOTHING | read_only)
        except PermissionError:
            if self.plan["netns"] != "host":
                raise
            return  # the host's network is not ours to show; no /sys is the stricter answer
        k.move_mount(sysfs, place)
        self._hide(sysfs, "/sys")
        os.close(sysfs)

    def _hide(self, fs: int, prefix: str) -> None:
        """Mask and protect what the plan names below `prefix`, whose mount is `fs`."""
        start = len(prefix) + 1
        for path in self.plan["masked"]:
            if path.startswith(prefix + "/"):
                self._mask(fs, path[start:])
        for path in self.plan["readonly"]:
            if path.startswith(prefix + "/"):
                place = below(fs, path[start:])
                if place >= 0:
                    fd = k.open_tree(place, "", k.OPEN_TREE_CLONE)
                    k.mount_setattr(fd, set_=_NOTHING | k.MOUNT_ATTR_RDONLY)
                    k.move_mount(fd, place)
                    os.close(fd)
                    os.close(place)

    def _mask(self, fs: int, path: str) -> None:
        place = below(fs, path)
        if place < 0:
            return
        if stat.S_ISDIR(os.fstat(place).st_mode):
            fd = k.open_tree(k.AT_FDCWD, "empty", k.OPEN_TREE_CLONE)
            k.mount_setattr(fd, set_=_NOTHING | k.MOUNT_ATTR_RDONLY)
        else:
            fd = k.open_tree(self.dev, "null", k.OPEN_TREE_CLONE)
        k.move_mount(fd, place)
        os.close(fd)
        os.close(place)

    # -- mounts of the spec ----------------------------------------------------------------------

    def _open_source(self, mount: tuple[Any, ...]) -> int:
        """Return a detached copy of a bind's source, or -1 for a mount that has none."""
        if mount[0] != "bind":
            return -1
        _, target, source, read_only, beneath = mount
        self.doing = f"opening {source} for {target}"
        if beneath:
            fd = self._open_beneath(source, beneath)
        else:
            fd = k.open_tree(k.AT_FDCWD, source, k.OPEN_TREE_CLONE | k.AT_RECURSIVE)
        set_ = k.MOUNT_ATTR_NOSUID | k.MOUNT_ATTR_NODEV
        set_ |= k.MOUNT_ATTR_RDONLY if read_only else 0
        k.mount_setattr(fd, set_=set_, recursive=True)
        if self.base and not (source + "/").startswith(self.store + "/"):
            try:
                k.mount_setattr(fd, set_=k.MOUNT_ATTR_IDMAP, userns=self.userns)
            except OSError:
                # A file system without idmapped mounts: read-only it is still of use, its owners
                # show as nobody. Writing would put shifted ids on the host's disk.
                if not read_only:
                    raise
        return fd

    def _open_beneath(self, source: str, path: str) -> int:
        """Return a copy of what is at `path` inside `source`, made where it is missing.

        Other steps may write there at the same time, so it is resolved once and mounted by fd.
        """
        top = os.open(source, os.O_PATH | os.O_DIRECTORY)
        flags = k.RESOLVE_IN_ROOT | k.RESOLVE_NO_MAGICLINKS
        try:
            try:
                found = k.openat2(top, path, os.O_PATH, flags)
            except FileNotFoundError:
                make_directories(top, path)
                found = k.openat2(top, path, os.O_PATH | os.O_DIRECTORY, flags)
            mode = os.fstat(found).st_mode
            if not stat.S_ISDIR(mode) and not stat.S_ISREG(mode):
                raise Refused(f"{path} in {source} is neither a directory nor a file")
            fd = k.open_tree(found, "", k.OPEN_TREE_CLONE)
            os.close(found)
            return fd
        finally:
            os.close(top)

    def _new_mount(self, mount: tuple[Any, ...], index: int) -> int:
        kind = mount[0]
        if kind == "tmpfs":
            _, _, size, mode, uid, gid, noexec, read_only = mount
            options: dict[str, str | None] = {"mode": f"{mode:o}"}
            if size:
                options["size"] = str(size)
            options |= {"uid": str(self.base + uid), "gid": str(self.base + gid)}
            attributes = k.MOUNT_ATTR_NOSUID | k.MOUNT_ATTR_NODEV
            attributes |= k.MOUNT_ATTR_NOEXEC if noexec else 0
            attributes |= k.MOUNT_ATTR_RDONLY if read_only else 0
            return k.new_filesystem("tmpfs", options, attributes)
        if kind == "overlay":
            for name in (f"over/{index}", f"over/{index}/up", f"over/{index}/work"):
                os.mkdir(name, 0o755)
            lowers = [*mount[2], "empty"]
            if mount[3]:
                return self._overlay(lowers, None, None)
            return self._overlay(lowers, f"over/{index}/up", f"over/{index}/work")
        _, _, content, mode, uid, gid = mount
        return self._file(f"files/m{index}", content, mode, uid, gid)

    def _file(self, name: str, content: bytes, mode: int, uid: int, gid: int) -> int:
        fd = os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode)
        os.write(fd, content) if content else None
        os.fchown(fd, self.base + uid, self.base + gid)
        os.close(fd)
        made = k.open_tree(k.AT_FDCWD, name, k.OPEN_TREE_CLONE)
        if self.plan["read_only_root"]:
            k.mount_setattr(made, set_=k.MOUNT_ATTR_RDONLY)
        return made

    def _attach_file(
        self, name: str, content: bytes, mode: int, uid: int, gid: int, place: int
    ) -> None:
        fd = self._file(name, content, mode, uid, gid)
        k.move_mount(fd, place)
        os.close(fd)


def _overlay_options(userxattr: bool) -> list[tuple[str, str | None]]:
    options: list[tuple[str, str | None]] = [
        ("index", "off"),
        ("metacopy", "off"),
        ("redirect_dir", "nofollow"),
        ("xino", "off"),
    ]
    return [*options, ("userxattr", None)] if userxattr else options
