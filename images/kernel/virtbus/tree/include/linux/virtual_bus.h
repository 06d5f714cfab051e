/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Virtual bus: pairs devices that one kernel module makes with drivers of another.
 *
 * See Documentation/driver-api/virtual_bus.rst.
 */
#ifndef _LINUX_VIRTUAL_BUS_H
#define _LINUX_VIRTUAL_BUS_H

#include <linux/container_of.h>
#include <linux/device.h>
#include <linux/mod_devicetable.h>
#include <linux/module.h>

struct virtbus_name;

/**
 * struct virtbus_device - what a module offers to drivers of other modules
 * @dev: The creator sets @dev.parent before virtbus_dev_init(), as a rule to the device that its
 *	own driver is bound to. @dev.release belongs to the bus.
 * @release: Set by the creator before virtbus_dev_init(). Called once, when the last reference is
 *	gone; it frees the memory that @dev is part of.
 *
 * The creator embeds it, at any offset, in a structure that starts zeroed; container_of() leads a
 * driver to that structure.
 */
struct virtbus_device {
	struct device dev;
	void (*release)(struct virtbus_device *vdev);
	/* private: */
	struct virtbus_name *name;
	const char *driver_override;
	int id;
};

/**
 * struct virtbus_driver - a driver of virtbus devices
 * @name: Second half of the driver's name in sysfs, which is "module.name"; %NULL: it is "module".
 * @id_table: Names that it binds to, "module.name" of the creator, ended by an empty one. Must stay
 *	as long as the driver is registered.
 * @probe: Called to bind to a device. @id is the table's entry that the device matched, or one with
 *	an empty name if only the device's driver_override led here. Mandatory.
 * @remove: Called when the device goes, or the driver; the creator's structure is still whole.
 * @shutdown: Called when the machine goes down or reboots, before the parent's.
 * @driver: For callbacks of power management, @driver.pm; the rest is filled in by the bus.
 */
struct virtbus_driver {
	const char *name;
	const struct virtbus_device_id *id_table;
	int (*probe)(struct virtbus_device *vdev, const struct virtbus_device_id *id);
	void (*remove)(struct virtbus_device *vdev);
	void (*shutdown)(struct virtbus_device *vdev);
	struct device_driver driver;
};

#define to_virtbus_dev(device) container_of(device, struct virtbus_device, dev)
#define to_virtbus_drv(drv) container_of(drv, struct virtbus_driver, driver)

static inline void *virtbus_get_drvdata(const struct virtbus_device *vdev)
{
	return dev_get_drvdata(&vdev->dev);
}

static inline void virtbus_set_drvdata(struct virtbus_device *vdev, void *data)
{
	dev_set_drvdata(&vdev->dev, data);
}

int __virtbus_dev_init(struct virtbus_device *vdev, const char *name, struct module *owner,
		       const char *modname);
int virtbus_dev_add(struct virtbus_device *vdev);
void virtbus_dev_del(struct virtbus_device *vdev);
void virtbus_dev_uninit(struct virtbus_device *vdev);

int __virtbus_drv_register(struct virtbus_driver *vdrv, struct module *owner, const char *modname);
void virtbus_drv_unregister(struct virtbus_driver *vdrv);

/**
 * virtbus_dev_init - prepare a device and reserve its name
 * @vdev: device with parent and release set
 * @name: what it is, among the devices of the calling module: letters, digits, underscores. It is
 *	copied.
 *
 * The device will be called "module.name.N", N being the lowest number that is free. Nothing is
 * visible yet.
 *
 * Return: 0, or an error, after which @vdev is the caller's to free. After 0 it is given up by
 * virtbus_dev_uninit() and freed by its release function, and by nothing else.
 */
#define virtbus_dev_init(vdev, name) \
	__virtbus_dev_init(vdev, name, THIS_MODULE, KBUILD_MODNAME)

/**
 * virtbus_drv_register - register a driver
 * @vdrv: driver with probe and id_table set
 *
 * Return: 0 or an error.
 */
#define virtbus_drv_register(vdrv) \
	__virtbus_drv_register(vdrv, THIS_MODULE, KBUILD_MODNAME)

/**
 * module_virtbus_driver() - init and exit of a module that is a driver and nothing else
 * @vdrv: driver
 */
#define module_virtbus_driver(vdrv) \
	module_driver(vdrv, virtbus_drv_register, virtbus_drv_unregister)

#endif /* _LINUX_VIRTUAL_BUS_H */
