// SPDX-License-Identifier: GPL-2.0-only
/*
 * A creator of devices that user space drives through debugfs: /sys/kernel/debug/MODULE/. Their
 * parent is a platform device with a driver of this module, which logs its own suspend, resume and
 * shutdown.
 */
#include VBT_ADAPTER

#include <linux/atomic.h>
#include <linux/err.h>
#include <linux/list.h>
#include <linux/mutex.h>
#include <linux/platform_device.h>
#include <linux/slab.h>
#include <linux/wait.h>

#include "vbt_log.h"

static LIST_HEAD(vbt_devices);
static DEFINE_MUTEX(vbt_devices_lock);
static atomic_t vbt_created, vbt_released;
static DECLARE_WAIT_QUEUE_HEAD(vbt_release_seen);
static struct platform_device *vbt_parent;
static struct dentry *vbt_dir;

static void vbt_free(struct vbt_dev *dev)
{
	kfree(dev);
	atomic_inc(&vbt_released);
	wake_up_all(&vbt_release_seen);
}

static int vbt_create_one(const char *name)
{
	struct vbt_dev *dev = kzalloc(sizeof(*dev), GFP_KERNEL);
	int ret;

	if (!dev)
		return -ENOMEM;
	dev->parent = &vbt_parent->dev;
	dev->release = vbt_free;
	ret = vbt_dev_init(dev, VBT_MOD, name);
	if (ret) {
		kfree(dev);
		return ret;
	}
	atomic_inc(&vbt_created);
	ret = vbt_dev_add(dev);
	if (ret) {
		vbt_dev_put(dev);
		return ret;
	}
	mutex_lock(&vbt_devices_lock);
	list_add_tail(&dev->node, &vbt_devices);
	mutex_unlock(&vbt_devices_lock);
	return 0;
}

/* "NAME [COUNT]": those that were made before an error stay. */
static int vbt_create(char *line)
{
	char *name = strsep(&line, " ");
	unsigned int i, count = 1;
	int ret = 0;

	if (line && kstrtouint(strim(line), 10, &count))
		return -EINVAL;
	for (i = 0; i < count && !ret; i++)
		ret = vbt_create_one(name);
	return ret;
}

/* The first device of that name, or the first at all; no longer in the list. */
static struct vbt_dev *vbt_take(const char *name)
{
	struct vbt_dev *dev, *found = NULL;

	mutex_lock(&vbt_devices_lock);
	list_for_each_entry(dev, &vbt_devices, node) {
		if (!name || !strcmp(dev_name(vbt_device(dev)), name)) {
			list_del(&dev->node);
			found = dev;
			break;
		}
	}
	mutex_unlock(&vbt_devices_lock);
	return found;
}

static void vbt_destroy_one(struct vbt_dev *dev)
{
	vbt_dev_del(dev);
	vbt_dev_put(dev);
}

static int vbt_destroy_all(void)
{
	struct vbt_dev *dev;

	while ((dev = vbt_take(NULL)))
		vbt_destroy_one(dev);
	return 0;
}

/* "DEVNAME" or "all" */
static int vbt_destroy(char *line)
{
	struct vbt_dev *dev;

	if (!strcmp(line, "all"))
		return vbt_destroy_all();
	dev = vbt_take(line);
	if (!dev)
		return -ENODEV;
	vbt_destroy_one(dev);
	return 0;
}

VBT_COMMAND(vbt_create, vbt_create);
VBT_COMMAND(vbt_destroy, vbt_destroy);

static int vbt_devices_show(struct seq_file *file, void *unused)
{
	struct vbt_dev *dev;

	mutex_lock(&vbt_devices_lock);
	list_for_each_entry(dev, &vbt_devices, node)
		seq_printf(file, "%s\n", dev_name(vbt_device(dev)));
	mutex_unlock(&vbt_devices_lock);
	return 0;
}
DEFINE_SHOW_ATTRIBUTE(vbt_devices);

static int vbt_counters_show(struct seq_file *file, void *unused)
{
	int created = atomic_read(&vbt_created), released = atomic_read(&vbt_released);

	seq_printf(file, "created %d\nreleased %d\nalive %d\n", created, released,
		   created - released);
	return 0;
}
DEFINE_SHOW_ATTRIBUTE(vbt_counters);

/* The parent */

static int vbt_parent_suspend(struct device *device)
{
	vbt_log(dev_name(device), "suspend");
	return 0;
}

static int vbt_parent_resume(struct device *device)
{
	vbt_log(dev_name(device), "resume");
	return 0;
}

static const struct dev_pm_ops vbt_parent_pm = {
	SYSTEM_SLEEP_PM_OPS(vbt_parent_suspend, vbt_parent_resume)
};

static int vbt_parent_probe(struct platform_device *pdev)
{
	return 0;
}

static void vbt_parent_shutdown(struct platform_device *pdev)
{
	vbt_log(dev_name(&pdev->dev), "shutdown");
}

static struct platform_driver vbt_parent_driver = {
	.probe = vbt_parent_probe,
	.shutdown = vbt_parent_shutdown,
	.driver = {
		.name = VBT_MOD "_parent",
		.pm = pm_sleep_ptr(&vbt_parent_pm),
	},
};

static int __init vbt_dev_init_module(void)
{
	int ret;

	ret = platform_driver_register(&vbt_parent_driver);
	if (ret)
		return ret;
	vbt_parent = platform_device_register_simple(VBT_MOD "_parent", PLATFORM_DEVID_NONE,
						     NULL, 0);
	if (IS_ERR(vbt_parent)) {
		platform_driver_unregister(&vbt_parent_driver);
		return PTR_ERR(vbt_parent);
	}
	vbt_dir = debugfs_create_dir(VBT_MOD, NULL);
	debugfs_create_file("create", 0200, vbt_dir, NULL, &vbt_create_fops);
	debugfs_create_file("destroy", 0200, vbt_dir, NULL, &vbt_destroy_fops);
	debugfs_create_file("devices", 0400, vbt_dir, NULL, &vbt_devices_fops);
	debugfs_create_file("counters", 0400, vbt_dir, NULL, &vbt_counters_fops);
	debugfs_create_file("log", 0600, vbt_dir, NULL, &vbt_log_fops);
	return 0;
}
module_init(vbt_dev_init_module);

static void __exit vbt_dev_exit_module(void)
{
	debugfs_remove_recursive(vbt_dir);
	vbt_destroy_all();
#ifdef VBT_CREATOR_WAITS
	wait_event(vbt_release_seen, atomic_read(&vbt_created) == atomic_read(&vbt_released));
#endif
	platform_device_unregister(vbt_parent);
	platform_driver_unregister(&vbt_parent_driver);
}
module_exit(vbt_dev_exit_module);

MODULE_DESCRIPTION("Creator of devices for conformance tests");
MODULE_LICENSE("GPL");
